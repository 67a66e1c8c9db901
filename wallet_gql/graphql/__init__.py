"""The contract: what can be asked and done, one file for each noun."""
