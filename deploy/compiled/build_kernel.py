"""The extension `bigspec_compiled._kernel`, from kernel.c."""

from pathlib import Path

from cffi import FFI

ARGUMENTS = "*S, ptrdiff_t m, ptrdiff_t n, ptrdiff_t down, ptrdiff_t along"
DECLARATIONS = "\n".join(
    f"void {way}_{name}(const {entry} {ARGUMENTS}, {vectors}, ptrdiff_t b);"
    for name, entry in (("single", "float"), ("twofold", "double"))
    for way, vectors in (
        ("forward", "const double *V, double *Y"),
        ("backward", "const double *Y, double *Z"),
    )
)

builder = FFI()
builder.cdef(DECLARATIONS)
builder.set_source(
    "bigspec_compiled._kernel",
    Path(__file__).with_name("kernel.c").read_text(encoding="utf-8"),
    # The vectors are written out. What a compiler makes vectors of besides loses the fused
    # multiply-add where it sums in order, and with it the bits.
    extra_compile_args=["-O3", "-fno-tree-vectorize", "-fno-tree-slp-vectorize"],
    py_limited_api=True,
)
