"""What a worker tells Prometheus, where `DHARMA_METRICS_PORT` is set. It only shows.

    what was measured -> pipe -> counters --+
             Redis -> standing -> gauges ---+-> page -> Prometheus
                    the kernel -> usage ----+

Children do the work and Prometheus asks the worker's main process: so each thing that was measured
goes there at once, through a pipe, and is counted there. What is counted outlives every child, and
a child writes a line and no more. (The `multiprocess` mode of prometheus_client would need its
folder named before it is first imported, which Celery does where Flower is installed.)

Children may be forked at any moment. So the threads here hold no lock that a child could need, and
Redis, with what lies below it, is read by the worker's own loop.
"""
