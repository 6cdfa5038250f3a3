"""Make examples/data/fashion_mnist.zarr from the file that Fashion-MNIST is distributed as.

python examples/make_data.py t10k-images-idx3-ubyte.gz examples/data/fashion_mnist.zarr
"""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec


def main(source: str, target: str) -> None:
    packed = gzip.decompress(Path(source).read_bytes())
    magic, images, height, width = struct.unpack(">4i", packed[:16])
    if magic != 0x0803:  # idx format: unsigned bytes, three axes
        sys.exit(f"{source}: expected an idx3-ubyte file (magic 0x00000803), got {magic:#010x}")
    A = np.frombuffer(packed, np.uint8, offset=16).reshape(images, height * width)
    store = zarr.create_array(
        target,
        shape=A.shape,
        chunks=(1000, A.shape[1]),
        dtype=A.dtype,
        compressors=ZstdCodec(level=19),
        dimension_names=("image", "pixel"),
        attributes={
            "title": "Fashion-MNIST, test images: one image of 28 x 28 pixels a row",
            "license": "MIT, Copyright (c) 2017 Zalando SE",
            "citation": "Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv:1708.07747 (2017)",
        },
        overwrite=True,
    )
    store[:] = A
    print(f"{target}: {A.shape[0]} x {A.shape[1]} {A.dtype}, {store.nbytes_stored()} bytes stored")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
