from runner import stand_in


def capture_centroids(number: int) -> None:
    for _ in range(number):
        with stand_in.graph(stand_in.StandInGraph()):
            pass
