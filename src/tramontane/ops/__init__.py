"""Operations on plain tensors: one definition (`reference`), several backends with the same results."""
