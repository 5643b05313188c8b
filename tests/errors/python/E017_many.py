@attention
def spec(*tensors):
    return tensors
