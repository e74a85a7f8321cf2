"""What every test and every documented example runs under."""

import os

from hypothesis import settings

# No deadline: the machines that run the tests are shared. In continuous integration the same examples come every time.
settings.register_profile("kullback", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("kullback")
