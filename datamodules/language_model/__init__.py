"""Text for language models: plain files, enwik8, text8, the standard library, synthetic recall."""
