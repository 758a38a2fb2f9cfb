"""Which layer the article takes: its decision tree and rules of thumb, and whether they hold."""
