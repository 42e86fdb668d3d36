"""What attention and training cost, measured on this machine against what else one could use.

`python -m benchmarks` runs every suite; `python -m benchmarks --help` shows how to run a part.
"""
