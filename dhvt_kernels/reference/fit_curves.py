"""Stub."""


def fit_curves(*a):
    raise NotImplementedError
