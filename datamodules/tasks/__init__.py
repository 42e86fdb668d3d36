"""Downstream tasks: records become examples, examples become rows and batches."""
