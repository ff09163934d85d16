"""``make release``: builds, inspects and tries what is to be released; publishes nothing.

    gates ─▶ building ─▶ contents ─▶ trying (per Python) ─▶ licences, bill ─▶ dist/
                                        └ interpreters

Every module raises ``ReleaseRefused``, whose text says what was found and what to do.
"""
