def call():
    attngen.nn.Attention(None)
