"""The embedded Postgres: a real server from a wheel, started when it is needed, gone when nobody needs it.

``start`` gives a share of one server per data folder; every process of one user that names the folder uses
the same server.  Three kinds of process take part::

    client      holds ``clients.lock`` shared while it uses the server; starts the supervisor when there is none
    supervisor  holds ``supervisor.lock``; runs, restarts and stops the postmaster
    postmaster  holds ``server.lock`` together with all its children, through an inherited descriptor

All three are ``flock`` locks, so the kernel frees them when their holders die, in whatever way: no pid that was
written down is ever believed.  What happens when one is killed with ``kill -9``:

    client      its share is freed; when no share is left the supervisor stops the server after a second
    postmaster  the supervisor waits until its children are gone and starts it again
    supervisor  the kernel sends the postmaster SIGINT (Linux; elsewhere a guard process does); the clients that
                are left notice within a quarter of a second and start a new supervisor, which waits for
                ``server.lock`` and terminates what is in its way

Files of the folder ``<data folder>/pg18`` (``control`` in the code)::

    start.lock         one client at a time starts or joins
    clients.lock       shared by clients; the supervisor takes it exclusively in order to stop
    supervisor.lock    held by the supervisor for its life
    password           0600, the password of the role ``tailrace``
    endpoint.json      where the server listens, while it accepts connections; or why it could not be started
    postgres.log       what the server and the supervisor say; postgres.log.1 is the part before
    data               the server's data folder, or a link to it (below)
    socket             the folder of the Unix socket, or a link to it when the path is too long for a socket
    server.lock        beside the data

**As root** Postgres refuses to run, so the supervisor runs it as the unprivileged account ``tailrace``,
``postgres``, ``nobody`` or ``daemon``, whichever exists first; data that exists keeps its owner.  Should that
account not be able to reach the folder (``/root`` is closed to it), ``data`` is a link into a folder of its own
under ``/var/lib/tailrace``, and binaries it cannot read are copied to ``/var/cache/tailrace``.  The mode of a
folder that is not ours is never changed.
"""

from tailrace.local.client import LocalPostgres, default_data_dir, start

__all__ = ["LocalPostgres", "default_data_dir", "start"]
