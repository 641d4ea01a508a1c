"""Arrays and trees in, arrays and trees out; nothing here knows a network, a world or an algorithm."""
