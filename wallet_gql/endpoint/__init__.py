"""How a document is received and run. All use of the private parts of graphql-core, Strawberry and uvicorn is here."""
