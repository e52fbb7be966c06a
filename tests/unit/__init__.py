"""Tests of plain logic: no processes, no network, no PostgreSQL."""
