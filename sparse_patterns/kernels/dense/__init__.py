"""The dense kernel: every score, masked."""
