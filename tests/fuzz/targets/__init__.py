"""One module for each fuzzed parser (`tests.fuzz.target` says what it must have)."""
