"""How a program is tiled: typed points, legal space, choice by a model."""
