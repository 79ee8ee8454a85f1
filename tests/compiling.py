"""Compiling in tests: cheaply where many shapes are tried, and counted where once must do."""

import jax


def compile_cheaply(function):
    """`jax.jit` with half the time: XLA's own passes, no optimisation by LLVM."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def count_compilations(call):
    """How many programs a call compiles."""
    compiled = []

    def count(event, duration, **_):
        del duration
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        call()
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    return len(compiled)
