"""How far gradients travel: the article's statements on it, each measured."""
