spec = attention(max)
