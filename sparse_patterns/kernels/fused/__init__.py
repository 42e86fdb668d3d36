"""The fused kernel: windows, columns and documents by xformers' attention operators."""
