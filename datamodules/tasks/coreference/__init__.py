"""Coreference: OntoNotes and other files of CoNLL-2012 columns."""
