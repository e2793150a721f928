"""Feeds as people publish them: fetched, unpacked and read into entries; nothing is published here, no message known.

    fetch.py --> unpack.py --> read.py --> lists.py      one indicator a line: hosts files, block lists, rules
                                      \\--> tables.py     rows with columns: CSV and its relatives
                                      \\--> documents.py  JSON, XML, HTML: MISP, STIX, OpenIOC

fields.py says which of named fields are indicators, values.py what kind of indicator a text is, dates.py when it was.
"""
