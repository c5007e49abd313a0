// For Python, by ctypes.
#include "emulation.h"

extern "C" __attribute__((visibility("default"))) unsigned emulated_launches() { return emulation::launches(); }
