x = torch.zeros(1, 2, 8, 16)


def call():
    attngen.flex_attention(x, x, x, block_mask=x)
