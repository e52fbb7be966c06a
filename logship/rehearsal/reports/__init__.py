"""What came of a rehearsal, for whoever reads it.  All pure: a `Report` in, text out.

words     what the others have in common: verdicts and durations in words
table     for a terminal
document  for a program, as JSON
junit     for a pipeline, as JUnit XML
html      for people, as one page that needs nothing else
"""
