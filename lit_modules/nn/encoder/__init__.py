"""The encoder: BERT, RoBERTa or Longformer, with any pattern."""
