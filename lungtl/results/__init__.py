"""What a run or an evaluation leaves behind, and how it comes about."""
