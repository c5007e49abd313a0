"""The command line: files of every kind go in, files and one line for each failure come out."""

import inspect
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import dhvt_kernels as dk
from dhvt_kernels import cli, cli_options
from dhvt_kernels.imaging import load_image, mean_colors, overlay, saliency_picture

FAST = ("--cell", "4", "--iterations", "2")
OUTPUTS = ("_overlay.png", "_mean.png", ".svg", ".safetensors")


@pytest.fixture
def dhvt(capsys):
    """Run the command; its exit code, what it printed, and the lines on standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err.splitlines()

    return run


def picture(path, height=20, width=28, seed=0, mode="RGB", **options):
    """Write a picture of smooth noise; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    image.convert(mode).save(path, **options)
    return path


def outputs(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def expected(*names):
    return sorted(name + end for name in names for end in OUTPUTS)


def test_version():
    command = [sys.executable, "-m", "dhvt_kernels.cli", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"dhvt_kernels {dk.__version__}\n"
    )


def test_info(dhvt):
    code, text, errors = dhvt("info", "--json")
    assert (code, errors) == (0, [])
    facts = json.loads(text)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["backends"]["reference on cpu"] is None
    assert facts["backends"]["native on cpu"] is None
    assert facts["cpu"]["threads"] == torch.get_num_threads()
    assert facts["build"]["library"].endswith("_C.so")
    code, text, _ = dhvt("info")
    assert code == 0
    for word in ("native on cpu", "triton on cuda", "available", "missing", torch.__version__):
        assert word in text


def test_info_names_the_reason(dhvt, monkeypatch):
    monkeypatch.setattr("dhvt_kernels._native.native_error", "it was not built")
    assert json.loads(dhvt("info", "--json")[1])["backends"]["native on cpu"] == "it was not built"


def test_info_says_what_is_in_force_and_why(dhvt):
    facts = json.loads(dhvt("info", "--json")[1])["in force"]
    assert facts["cpu"].startswith("native (")
    assert torch.cuda.is_available() or facts["cuda"].startswith("nothing: torch ")
    assert facts["on the CPU only"].startswith("merge_best, trace, ")
    with dk.backend("reference"):
        facts = json.loads(dhvt("info", "--json")[1])["in force"]
    assert facts["cpu"] == "reference (forced by backend(...))"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it can run")
def test_info_starts_with_a_backend_that_cannot_run():
    environment = {**os.environ, "DHVT_KERNELS_BACKEND": "triton", "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "dhvt_kernels.cli", "info", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)["in force"]["cpu"]
    assert found.startswith("triton (forced by DHVT_KERNELS_BACKEND), which cannot run: Triton ")


@pytest.mark.parametrize("command", [cli.tokenize, cli.view])
def test_every_parameter_of_the_tokenizer_has_an_option(command):
    ours = inspect.signature(command).parameters
    # A module cannot be given in a shell; the others have no meaning for pictures without features and gradients.
    theirs = set(inspect.signature(dk.Tokenizer).parameters) - {"features", "weights", "grad", "check_finite"}
    assert theirs <= set(ours)


def test_saliency(dhvt, tmp_path):
    sources = [picture(tmp_path / f"photo{seed}.png", seed=seed) for seed in (0, 1)]
    out = tmp_path / "out"
    code, _, errors = dhvt("tokenize", *sources, "-o", out, *FAST, "--saliency", "--criterion", "mdl")
    assert (code, errors) == (0, [])
    assert outputs(out) == sorted([*expected("photo0", "photo1"), "photo0_saliency.png", "photo1_saliency.png"])
    for seed, source in enumerate(sources):
        hierarchy = dk.Tokenizer(cell=4, iterations=2, criterion="mdl").hierarchy(load_image(source)[None])
        found = load_image(out / f"photo{seed}_saliency.png")
        assert torch.equal(found, saliency_picture(hierarchy.saliency()))
        assert found.unique().numel() > 5


def test_files(dhvt, tmp_path):
    source = picture(tmp_path / "photo.png")
    out = tmp_path / "out"
    code, text, errors = dhvt("tokenize", source, "-o", out, *FAST, "--max-tokens", 7, "--patch-size", 5, "--grid", 3)
    assert (code, errors) == (0, [])
    assert outputs(out) == expected("photo")

    image = load_image(source)
    partition = dk.Tokenizer(cell=4, iterations=2, max_tokens=7)(image[None])
    tokens = int(partition.counts[0])
    assert 1 < tokens <= 7
    torch.testing.assert_close(load_image(out / "photo_overlay.png"), overlay(image, partition))
    torch.testing.assert_close(load_image(out / "photo_mean.png"), mean_colors(image, partition))
    assert (out / "photo.svg").read_text() == dk.to_svg(image, partition)
    assert f" {tokens} │" in text
    assert f"{float(partition.cost[0]):,.0f}" in text

    with safe_open(out / "photo.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["picture"] == "photo.png"
    assert json.loads(metadata["tokenizer"])["max_tokens"] == 7
    assert float(metadata["criterion_value"]) == float(partition.cost[0])

    arrays = load_file(out / "photo.safetensors")
    labels = arrays.pop("labels")
    assert labels.dtype == torch.int32
    torch.testing.assert_close(labels, partition.labels[0])
    pixels = [image[:, labels == token].double() for token in range(tokens)]
    places = [(labels == token).nonzero() for token in range(tokens)]
    assert arrays.pop("count").tolist() == [len(place) for place in places]
    means = torch.stack([values.mean(1) / 255 for values in pixels]).float()
    torch.testing.assert_close(arrays.pop("mean_color"), means, rtol=0, atol=1e-5)
    centroids = torch.stack([place.double().mean(0) for place in places]).float()
    torch.testing.assert_close(arrays.pop("centroid"), centroids, rtol=0, atol=1e-4)
    boxes = [[*place.amin(0).tolist(), *place.amax(0).tolist()] for place in places]
    assert arrays.pop("box").tolist() == boxes
    box = torch.tensor([boxes], dtype=torch.int32)
    patches, masks = dk.token_patches(image[None].float(), partition.labels, box, size=5)
    torch.testing.assert_close(arrays.pop("patches"), patches[0].round().byte())
    torch.testing.assert_close(arrays.pop("masks"), (masks[0, :, 0] * 255).round().byte())
    histogram = arrays.pop("position_histogram")
    assert histogram.shape == (tokens, 3, 3)
    torch.testing.assert_close(histogram.sum((1, 2)), torch.ones(tokens))
    assert not arrays


@pytest.mark.parametrize("command", ["tokenize", "view"])
def test_options_reach_the_tokenizer(dhvt, tmp_path, monkeypatch, command):
    given = {}

    def tokenizer(**parameters):
        given.update(parameters)
        raise ValueError("stop here")

    monkeypatch.setattr(cli_options, "Tokenizer", tokenizer)
    wanted = {
        "leaves": "pixels", "cell": 5, "iterations": 6, "compactness": 7.5, "temperature": 2.5, "smoothing": 0.25,
        "distance": "ward", "merge_compactness": 0.5, "merge_noise": 9.0, "depth": 4, "criterion": "hqc", "noise": 3.5,
        "pixel_correlation": 1.5, "strength": 1.25, "max_tokens": 9, "select": "greedy", "lookahead": 2,
        "min_gain": 0.125, "selection_temperature": 0.75,
    }  # fmt: skip
    options = [text for name, value in wanted.items() for text in (f"--{name.replace('_', '-')}", value)]
    code, _, errors = dhvt(command, "x.png", "-o", tmp_path, *options)
    assert (code, errors) == (2, ["dhvt: Invalid value: stop here"])
    assert given == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cell", "0"], "cell: expected"),
        (["--cell", "wide"], "'--cell'"),
        (["--criterion", "best"], "'best' is not one of"),
        (["--max-tokens", "0"], "max_tokens: expected"),
        (["--temperature", "-1"], "temperature: expected"),
        (["--depth", "0"], "depth: expected"),
        (["--batch-size", "0"], "'--batch-size'"),
        (["--device", "toaster"], "device: cannot use 'toaster'"),
        (["--speed", "9"], "No such option"),
    ],
)
def test_bad_parameters(dhvt, tmp_path, arguments, message):
    code, text, errors = dhvt("tokenize", picture(tmp_path / "a.png"), "-o", tmp_path / "out", *arguments)
    assert (code, text, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_missing_arguments(dhvt, tmp_path):
    for arguments in (["tokenize"], ["tokenize", "a.png"], ["tokenise"]):
        code, _, errors = dhvt(*arguments)
        assert (code, len(errors)) == (2, 1)
    assert "Usage" in dhvt()[1]
    (tmp_path / "file").touch()
    code, _, errors = dhvt("tokenize", "a.png", "-o", tmp_path / "file")
    assert (code, errors) == (2, [f"dhvt: Invalid value: {tmp_path / 'file'}: not a folder"])


@pytest.mark.parametrize("command", ["tokenize", "svg"])
def test_links_to_themselves_and_names_too_long(dhvt, tmp_path, command):
    loop, good = tmp_path / "loop.png", picture(tmp_path / "a.png")
    loop.symlink_to(loop)
    code, _, errors = dhvt(command, loop, good, "-o", tmp_path / "out")
    assert (code, len(errors)) == (1, 1)
    assert "Too many levels of symbolic links" in errors[0]
    assert list((tmp_path / "out").iterdir())
    for output, message in (
        (loop, "Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        code, text, errors = dhvt(command, good, "-o", output)
        assert (code, text, errors) == (2, "", [f"dhvt: Invalid value: {output}: {message}"])


def test_one_bad_file_stops_no_other(dhvt, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    picture(source / "a_good.png")
    whole = picture(source / "b_cut.jpg", 64, 64).read_bytes()
    (source / "b_cut.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "c_text.png").write_text("no picture")
    picture(source / "d_good.png", seed=1)
    (tmp_path / "empty").mkdir()
    code, text, errors = dhvt("tokenize", tmp_path / "empty", source, tmp_path / "absent.png", "-o", out, *FAST)
    assert code == 1
    assert outputs(out) == expected("a_good", "d_good")
    assert "2 in" in text
    assert [line.partition(": ")[0] for line in sorted(errors)] == sorted(
        str(tmp_path / name) for name in ("absent.png", "empty", "in/b_cut.jpg", "in/c_text.png")
    )
    assert f"{tmp_path / 'empty'}: no images in this folder" in errors
    assert f"{tmp_path / 'absent.png'}: No such file or directory" in errors


def test_only_bad_files(dhvt, tmp_path):
    assert dhvt("tokenize", tmp_path / "absent.png", "-o", tmp_path / "out")[:2] == (1, "")


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("grey.png", "L", {}),
        ("deep.tif", "I;16", {}),
        ("bits.png", "1", {}),
        ("clear.png", "RGBA", {}),
        ("clear_grey.png", "LA", {}),
        ("palette.gif", "P", {}),
        ("print.jpg", "CMYK", {}),
    ],
)
def test_every_kind_of_picture(dhvt, tmp_path, name, mode, options):
    code, _, errors = dhvt("tokenize", picture(tmp_path / name, mode=mode, **options), "-o", tmp_path / "out", *FAST)
    assert (code, errors) == (0, [])
    stem = name.partition(".")[0]
    labels = load_file(tmp_path / "out" / f"{stem}.safetensors")["labels"]
    assert labels.shape == (20, 28)
    assert load_image(tmp_path / "out" / f"{stem}_overlay.png").shape == (3, 20, 28)


def test_rotated_photo(dhvt, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert dhvt("tokenize", picture(tmp_path / "a.jpg", exif=exif), "-o", tmp_path / "out", *FAST)[0] == 0
    assert load_file(tmp_path / "out/a.safetensors")["labels"].shape == (28, 20)
    assert load_image(tmp_path / "out/a_mean.png").shape == (3, 28, 20)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_tiny_pictures(dhvt, tmp_path, size):
    code, _, errors = dhvt("tokenize", picture(tmp_path / "a.png", *size), "-o", tmp_path / "out")
    assert (code, errors) == (0, [])
    arrays = load_file(tmp_path / "out/a.safetensors")
    assert arrays["labels"].shape == size
    assert arrays["count"].sum() == size[0] * size[1]


def test_folders_keep_their_structure(dhvt, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "b/a.png", "b/a.jpg", "c/a.png"):
        picture(source / name)
    code, _, errors = dhvt(
        "tokenize", source, source / "b" / "a.png", "-o", out, *FAST
    )  # the last one is known already
    assert (code, errors) == (0, [])
    assert outputs(out) == expected("a", "b/a", "b/a-2", "c/a")


def test_equal_names_from_different_folders(dhvt, tmp_path):
    files = [picture(tmp_path / folder / "a.png", seed=seed) for seed, folder in enumerate("xyz")]
    assert dhvt("tokenize", *files, "-o", tmp_path / "out", *FAST)[0] == 0
    assert outputs(tmp_path / "out") == expected("a", "a-2", "a-3")
    for file, name in zip(files, ("a", "a-2", "a-3"), strict=True):
        single = dk.Tokenizer(cell=4, iterations=2)(load_image(file)[None])
        torch.testing.assert_close(load_file(tmp_path / f"out/{name}.safetensors")["labels"], single.labels[0])


def test_results_are_no_input(dhvt, tmp_path):
    picture(tmp_path / "a.png")
    for _ in range(2):
        assert dhvt("tokenize", tmp_path, "-o", tmp_path / "out", *FAST)[0] == 0
        assert outputs(tmp_path / "out") == expected("a")


def test_a_picture_is_never_overwritten(dhvt, tmp_path):
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "a_mean.png", seed=1)
    before = second.read_bytes()
    code, _, errors = dhvt("tokenize", first, second, "-o", tmp_path, *FAST)
    assert code == 1
    assert second.read_bytes() == before
    assert errors == [f"{first}: the results would overwrite {second}; choose another output folder"]
    assert (tmp_path / "a_mean_mean.png").exists()


def test_batches_group_equal_sizes(dhvt, tmp_path, monkeypatch):
    for index in range(7):
        picture(tmp_path / f"in/{index}.png", width=28 if index % 2 else 24, seed=index)
    shapes = []
    run = cli._run
    monkeypatch.setattr(
        cli, "_run", lambda tokenizer, images: shapes.append(tuple(images.shape)) or run(tokenizer, images)
    )
    code, text, _ = dhvt("tokenize", tmp_path / "in", "-o", tmp_path / "out", "--batch-size", 2, *FAST)
    assert code == 0
    assert sorted(shapes) == [(1, 3, 20, 28), (2, 3, 20, 24), (2, 3, 20, 24), (2, 3, 20, 28)]
    rows = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert rows[:7] == [str(index) for index in range(7)]
    # A batch gives what its pictures give alone.
    for index in range(7):
        single = dk.Tokenizer(cell=4, iterations=2)(load_image(tmp_path / f"in/{index}.png")[None])
        torch.testing.assert_close(load_file(tmp_path / f"out/{index}.safetensors")["labels"], single.labels[0])


def test_batches_are_bounded_in_pixels(dhvt, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "BATCH_PIXELS", 20 * 28 * 2)
    for index in range(12):
        picture(tmp_path / f"in/{index:02}.png", width=28 + index % 6, seed=index)
    shapes = []
    run = cli._run
    monkeypatch.setattr(
        cli, "_run", lambda tokenizer, images: shapes.append(tuple(images.shape)) or run(tokenizer, images)
    )
    assert dhvt("tokenize", tmp_path / "in", "-o", tmp_path / "out", *FAST)[0] == 0
    assert sum(shape[0] for shape in shapes) == 12
    assert max(shape[0] * shape[2] * shape[3] for shape in shapes) <= cli.BATCH_PIXELS


def test_a_failing_batch_is_reported_and_left_out(dhvt, tmp_path, monkeypatch):
    picture(tmp_path / "in/a.png", width=24)
    picture(tmp_path / "in/b.png", width=28)
    run = cli._run

    def out_of_memory(tokenizer, images):
        if images.shape[3] == 24:
            raise RuntimeError("no memory\nleft")
        return run(tokenizer, images)

    monkeypatch.setattr(cli, "_run", out_of_memory)
    code, _, errors = dhvt("tokenize", tmp_path / "in", "-o", tmp_path / "out", *FAST)
    assert (code, errors) == (1, [f"{tmp_path / 'in/a.png'}: no memory left"])
    assert outputs(tmp_path / "out") == expected("b")


def test_many_tokens_leave_out_the_patches(dhvt, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "PATCH_SAMPLES", 3 * 16**2)
    source = picture(tmp_path / "a.png")
    code, _, errors = dhvt("tokenize", source, "-o", tmp_path / "out", "--depth", 1, *FAST)
    assert code == 0
    assert len(errors) == 1
    assert "patches and histograms are not written" in errors[0]
    assert set(load_file(tmp_path / "out/a.safetensors")) == {"labels", "count", "mean_color", "centroid", "box"}


@pytest.mark.parametrize("command", [("tokenize", *FAST), ("svg",)], ids=["tokenize", "svg"])
def test_long_summaries_are_cut(dhvt, tmp_path, monkeypatch, command):
    monkeypatch.setattr("dhvt_kernels.cli_jobs.TABLE_ROWS", 2)
    for index in range(5):
        picture(tmp_path / f"in/{index}.png", 6, 6)
    text = dhvt(*command, tmp_path / "in", "-o", tmp_path / "out")[1]
    assert "... and 3 more" in text
    assert "5 in" in text


@pytest.mark.slow
def test_eighty_megapixels(dhvt, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 250, 3), np.uint8)
    source = tmp_path / "map.png"
    Image.fromarray(noise).resize((10_000, 8_000), Image.Resampling.BICUBIC).save(source, compress_level=1)
    code, text, errors = dhvt("tokenize", source, "-o", tmp_path / "out")
    assert code == 0
    assert "10000 x 8000" in text
    assert outputs(tmp_path / "out") == expected("map")
    assert load_file(tmp_path / "out/map.safetensors")["count"].sum() == 80_000_000
    assert len(errors) <= 1


def test_names_of_any_bytes_and_brackets(dhvt, tmp_path):
    odd = b"odd\xff.png".decode("utf-8", "surrogateescape")
    picture(tmp_path / "in" / odd)
    picture(tmp_path / "in" / "[bold]x[b].png")
    code, printed, errors = dhvt("tokenize", tmp_path / "in", "-o", tmp_path / "out", *FAST)
    assert (code, errors) == (0, [])
    assert "[bold]x[b]" in printed
    assert outputs(tmp_path / "out") == expected("[bold]x[b]", odd.removesuffix(".png"))


def test_an_output_that_cannot_be_written_is_named(dhvt, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    code, _, errors = dhvt("tokenize", picture(tmp_path / "a.png"), "-o", file / "out", *FAST)
    assert code == 1
    assert errors == [f"{tmp_path / 'a.png'}: Not a directory: {file / 'out'}"]


def svg_sizes(path):
    """Width, height and number of paths of an SVG file, which has to be valid XML."""
    root = ElementTree.fromstring(path.read_bytes())
    return int(root.get("width")), int(root.get("height")), len(list(root.iter("{http://www.w3.org/2000/svg}path")))


@pytest.fixture
def wide(monkeypatch):
    """A terminal in which no line of the summary is folded."""
    monkeypatch.setenv("COLUMNS", "400")


def cells(text):
    """The cells of the summary's rows, the last row for all pictures."""
    rows = [line for line in text.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in row.strip("│┃").replace("┃", "│").split("│")] for row in rows]


def test_svg_files_and_summary(dhvt, tmp_path, wide):
    files = [picture(tmp_path / "in" / name, seed=seed) for seed, name in enumerate(("a.png", "b/c.jpg"))]
    code, text, errors = dhvt("svg", tmp_path / "in", "-o", tmp_path / "out")
    assert (code, errors) == (0, [])
    assert outputs(tmp_path / "out") == ["a.svg", "b/c.svg"]
    title, *rows, total = cells(text)
    assert title == ["picture", "size", "segments", "bytes", "ms"]
    sizes = []
    for file, name, row in zip(files, ("a", "b/c"), rows, strict=True):
        image = load_image(file)
        svg = (tmp_path / f"out/{name}.svg").read_text()
        partition = dk.vector_hierarchy(image).cut(max_tokens=512)
        assert svg == dk.to_svg(image, partition, tolerance=0.5, curves=True)
        assert row[:4] == [name, "28 x 20", f"{int(partition.counts)}", f"{len(svg):,}"]
        sizes.append((int(partition.counts), len(svg)))
    assert total[0] == f"2 in {tmp_path / 'out'}"
    assert total[2:4] == [f"{sum(size):,}" for size in zip(*sizes, strict=True)]
    assert total[4].endswith(" mean")


@pytest.mark.parametrize(
    ("options", "outlines"),
    [
        ([], {"tolerance": 0.5, "curves": True}),
        (["--lines"], {"tolerance": 0.5}),
        (["--curves", "--tolerance", 1.5], {"tolerance": 1.5, "curves": True}),
        (["--tolerance", 0], {}),
        (["--gradients"], {"tolerance": 0.5, "curves": True, "gradients": True}),
        (["--precision", 0], {"tolerance": 0.5, "curves": True, "precision": 0}),
        (["--precision", 2], {"tolerance": 0.5, "curves": True, "precision": 2}),
    ],
)
def test_svg_outlines(dhvt, tmp_path, options, outlines):
    source = picture(tmp_path / "a.png", 60, 80)
    assert dhvt("svg", source, "-o", tmp_path / "out", "--max-tokens", 9, *options)[::2] == (0, [])
    image = load_image(source)
    wanted = dk.to_svg(image, dk.vector_hierarchy(image).cut(max_tokens=9), **outlines)
    assert (tmp_path / "out/a.svg").read_text() == wanted
    assert wanted.count("<path") in range(5, 10)


def test_svg_of_a_size_and_of_a_quality(dhvt, tmp_path):
    source = picture(tmp_path / "a.png", 60, 80)
    image, file = load_image(source), tmp_path / "out/a.svg"
    assert dhvt("svg", source, "-o", tmp_path / "out", "--bytes", 2000)[::2] == (0, [])
    assert 1500 < file.stat().st_size <= 2000
    pytest.importorskip("resvg_py")
    assert dhvt("svg", source, "-o", tmp_path / "out", "--psnr", 27.5)[::2] == (0, [])
    assert 27.5 <= dk.svg_psnr(file.read_text(), image) < 28.5


def test_svg_of_a_size_out_of_reach(dhvt, tmp_path):
    small, large = picture(tmp_path / "small.png", 8, 8), tmp_path / "large.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (140, 140, 3), np.uint8)).save(large)
    for options, what in ((["--bytes", 20], "size: expected at least"), (["--psnr", 90], "psnr: expected at most")):
        code, text, errors = dhvt("svg", large, "-o", tmp_path / "out", *options)
        assert (code, text, len(errors)) == (1, "", 1)
        assert errors[0].startswith(f"{large}: {what}")
    assert outputs(tmp_path) == ["large.png", "small.png"]
    code, _, errors = dhvt("svg", large, small, "-o", tmp_path / "out", "--psnr", 60, "--lines", "--tolerance", 0)
    assert (code, len(errors)) == (1, 1), "a picture that fails stops no other"
    assert outputs(tmp_path / "out") == ["small.svg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-tokens", 5, "--bytes", 900], "expected one of --max-tokens, --bytes and --psnr"),
        (["--max-tokens", 5, "--psnr", 30], "expected one of --max-tokens, --bytes and --psnr"),
        (["--bytes", 900, "--psnr", 30], "expected one of --max-tokens, --bytes and --psnr"),
        (["--max-tokens", 0], "'--max-tokens'"),
        (["--bytes", 0], "'--bytes'"),
        (["--psnr", "high"], "'--psnr'"),
        (["--psnr", "nan"], "--psnr: expected a finite number"),
        (["--tolerance", -1], "'--tolerance'"),
        (["--tolerance", "nan"], "--tolerance"),
        (["--tolerance", "inf"], "--tolerance: expected a finite number"),
        (["--precision", -1], "'--precision'"),
        (["--precision", 7], "'--precision'"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_svg_bad_parameters(dhvt, tmp_path, options, message):
    code, text, errors = dhvt("svg", picture(tmp_path / "a.png"), "-o", tmp_path / "out", *options)
    assert (code, text, len(errors)) == (2, "", 1)
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_svg_quality_without_a_renderer(dhvt, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    source = picture(tmp_path / "a.png")
    code, _, errors = dhvt("svg", source, "-o", tmp_path / "out", "--psnr", 30)
    assert (code, len(errors)) == (2, 1)
    assert "--psnr: rendering needs resvg-py: pip install 'dhvt_kernels[svg]'" in errors[0]
    assert dhvt("svg", source, "-o", tmp_path / "out", "--bytes", 2000)[0] == 0


def test_svg_keeps_transparency(dhvt, tmp_path):
    samples = np.full((20, 30, 4), (200, 40, 90, 255), np.uint8)
    samples[:, :10, 3], samples[:, 20:, 3] = 0, 128
    Image.fromarray(samples).save(tmp_path / "a.png")
    assert dhvt("svg", tmp_path / "a.png", "-o", tmp_path / "out", "--tolerance", 0)[0] == 0
    text = (tmp_path / "out/a.svg").read_text()
    assert svg_sizes(tmp_path / "out/a.svg") == (30, 20, 2)
    assert text.count("fill-opacity") == 1
    pytest.importorskip("resvg_py")
    for background, level in (("#000", 0), ("#fff", 255)):
        seen = dk.render_svg(text, background=background)
        assert (seen[:, :, :10] == level).all()
        assert (seen[:, :, 10:20].permute(1, 2, 0) == torch.tensor([200, 40, 90])).all()
        mixed = torch.tensor([200, 40, 90]) * 128 / 255 + level * 127 / 255
        assert (seen[:, :, 20:].permute(1, 2, 0) - mixed).abs().max() <= 1.5


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_svg_of_tiny_pictures(dhvt, tmp_path, size):
    source = picture(tmp_path / "a.png", *size)
    for options in ([], ["--max-tokens", 1], ["--bytes", 400], ["--psnr", 5], ["--tolerance", 1e9, "--gradients"]):
        assert dhvt("svg", source, "-o", tmp_path / "out", *options)[::2] == (0, [])
        assert svg_sizes(tmp_path / "out/a.svg")[:2] == size[::-1]


def test_svg_one_bad_file_stops_no_other(dhvt, tmp_path, wide):
    picture(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("no picture")
    absent = tmp_path / "absent.png"
    code, text, errors = dhvt("svg", absent, tmp_path / "in", "-o", tmp_path / "out")
    assert code == 1
    assert errors == [
        f"{absent}: No such file or directory",
        f"{tmp_path / 'in/b.png'}: not a picture that Pillow can read",
    ]
    assert outputs(tmp_path / "out") == ["a.svg"]
    assert cells(text)[-1][0] == f"1 in {tmp_path / 'out'}"
    assert dhvt("svg", absent, "-o", tmp_path / "none")[:2] == (1, "")
    assert not (tmp_path / "none").exists()


def test_svg_output_that_cannot_be_written(dhvt, tmp_path):
    source, file = picture(tmp_path / "a.png"), tmp_path / "file"
    file.write_text("kept")
    code, _, errors = dhvt("svg", source, "-o", file)
    assert (code, errors) == (2, [f"dhvt: Invalid value: {file}: not a folder"])
    code, _, errors = dhvt("svg", source, "-o", file / "out")
    assert (code, errors) == (1, [f"{source}: Not a directory: {file / 'out'}"])
    assert file.read_text() == "kept"
    (tmp_path / "out/a.svg").mkdir(parents=True)
    code, _, errors = dhvt("svg", source, "-o", tmp_path / "out")
    assert (code, errors) == (1, [f"{source}: Is a directory: {tmp_path / 'out/a.svg'}"])


def test_svg_that_fails_leaves_the_old_file(dhvt, tmp_path, monkeypatch):
    source, out = picture(tmp_path / "a.png"), tmp_path / "out"
    assert dhvt("svg", source, "-o", out, "--max-tokens", 2)[0] == 0
    before = (out / "a.svg").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, text, errors = dhvt("svg", source, "-o", out)
    assert (code, text, errors) == (1, "", [f"{source}: No space left on device: {out / 'a.svg'}"])
    assert (out / "a.svg").read_text() == before
    assert [path.name for path in out.iterdir()] == ["a.svg"], "nothing else is left"


def test_svg_names(dhvt, tmp_path):
    odd = b"odd\xff.png".decode("utf-8", "surrogateescape")
    for name in (odd, "[b]x.png", "same.png", "same.jpg"):
        picture(tmp_path / "in" / name)
    for _ in range(2):  # results are no input
        code, printed, errors = dhvt("svg", tmp_path / "in", "-o", tmp_path / "in/out", "--max-tokens", 2)
        assert (code, errors) == (0, [])
        names = sorted(file.name for file in (tmp_path / "in/out").iterdir())
        assert names == sorted(["[b]x.svg", odd.replace("png", "svg"), "same-2.svg", "same.svg"])
    assert "[b]x" in printed


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("not enough\nmemory")])
def test_svg_of_a_picture_that_is_too_much(dhvt, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("dhvt_kernels.cli_svg.vector_hierarchy", fail)
    source = picture(tmp_path / "a.png")
    code, text, errors = dhvt("svg", source, "-o", tmp_path / "out")
    assert (code, text, errors) == (1, "", [f"{source}: {' '.join(str(error).split()) or 'MemoryError'}"])
