"""PostgreSQL: the tables, the migrations, the connections."""
