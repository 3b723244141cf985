"""Route handlers, one module per noun: parse, call one service, shape the answer."""
