"""What every test may rely on."""

import signal

# A shell starts what it sends to the background with Ctrl-C ignored, and children inherit that:
# tests that send the signal must not depend on how the tests were started.
signal.signal(signal.SIGINT, signal.default_int_handler)
