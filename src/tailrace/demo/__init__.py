"""The demo: an agent that digests a folder of text files, and the terminal in which ``tailrace demo`` shows it.

``tailrace serve --app tailrace.demo`` serves the same agent.

    terminal    what a person sees, and the exit code
    watching    start, follow, cut the stream, resume it, count
    serving     the App behind a real HTTP server on a loopback port
    digest      the agent: Discover, Read, Analyse, Rank, Report
    files       everything that touches the disk
    terms, ranking, report, tally     pure: no files, no clock
"""

from tailrace.app import App
from tailrace.demo import digest

__all__ = ["app"]

app = App()
app.agent("digest")(digest.digest)
