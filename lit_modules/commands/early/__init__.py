"""Answers to wrong words of a command line before torch and Lightning are imported.

What a class takes, and which names are registered, is read off the source. Whatever cannot be read
there has no answer here, and is left to the parser, which imports everything.
"""
