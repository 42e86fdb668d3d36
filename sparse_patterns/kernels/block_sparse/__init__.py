"""The block-sparse kernel: any layout of blocks, by the products of `xformers.sparse`."""
