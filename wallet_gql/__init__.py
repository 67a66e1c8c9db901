"""A double-entry wallet service for virtual credits: GraphQL over PostgreSQL."""
