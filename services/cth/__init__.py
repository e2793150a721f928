"""CTH, collaborative threat hunting: a feed of indicators is collected, parsed, enriched, routed and acted upon.

    feed --> CTH --> parse --> indicators --> enrich --> enriched --> archive (a JSON lines file)
                                                    \\--> alerts  --> alert   (a JSON lines file, an HTTP POST)

Each step is a module of its own; `mqasync run services.cth` runs them all in one process, and
`mqasync run services.cth.parse` one of them, as often as there is work for.
"""
