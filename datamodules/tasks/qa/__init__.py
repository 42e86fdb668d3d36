"""Question answering: SQuAD, TriviaQA, HotpotQA, WikiHop, and synthetic far choice."""
