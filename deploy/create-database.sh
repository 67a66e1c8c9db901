#!/bin/sh
# Creates the database and its two roles: the tables' owner, who migrates, and the server, who reads and appends.
# Runs once, when the PostgreSQL image fills an empty volume; by hand it wants psql and a superuser's PG… environment.
set -eu
psql --set ON_ERROR_STOP=1 --dbname "${PGDATABASE:-postgres}" --username "${POSTGRES_USER:-postgres}" \
    --set owner_password="$WALLET_OWNER_PASSWORD" --set server_password="$WALLET_SERVER_PASSWORD" <<'SQL'
CREATE ROLE wallet_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE wallet_server LOGIN PASSWORD :'server_password';
CREATE DATABASE wallet OWNER wallet_owner;
SQL
