"""Tests of one part of Logship against the real thing it talks to."""
