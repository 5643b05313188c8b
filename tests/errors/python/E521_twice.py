from torch.nn.attention.flex_attention import AuxRequest

x = torch.zeros(1, 2, 8, 16)


def call():
    attngen.flex_attention(x, x, x, return_lse=True, return_aux=AuxRequest(lse=True))
