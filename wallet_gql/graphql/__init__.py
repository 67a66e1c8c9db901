"""The API: parse, call an operation, answer in the schema's types."""
