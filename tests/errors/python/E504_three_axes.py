x = torch.zeros(1, 2, 8, 16)


def call():
    attngen.flex_attention(x[0], x[0], x[0])
