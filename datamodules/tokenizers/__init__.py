"""Tokenizers: bytes, trained byte-level BPE, and files of the `tokenizers` library."""
