"""One page of HTML about what kmod made.

Parts of a page are data (`parts`); `made_from`, `measured` and
`demo_sections` work out what is shown, `page` renders it.
"""
