"""Parsers, one module per format: `read(source)` yields the blocks of a document in reading order.

They run in the parser process alone (`documents.child`), which turns their exceptions into errors of the file. Each
imports its library at the top: the process imports one of them.
"""
