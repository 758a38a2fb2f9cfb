"""What layers cost: the article's statements on it, each measured."""
