"""The tests: unit, simulation, integration, e2e, and what they share in support."""
