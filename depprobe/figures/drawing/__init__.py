"""What figures draw with: axes, lines, words, sizes, files."""
