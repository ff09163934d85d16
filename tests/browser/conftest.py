"""A page of a real browser, and an application that mounts Tailrace."""

from tests.browser_support import host, page

__all__ = ["host", "page"]
