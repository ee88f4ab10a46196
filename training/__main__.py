"""``python -m training autoencoder|unet|export|distil|clip|report --minutes N`` (see training/README.md)."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("what", choices=["autoencoder", "unet", "export", "distil", "clip", "report"])
    parser.add_argument("--minutes", type=float, default=10, help="time budget of this call; it resumes")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument(
        "--part", default="all", choices=["all", "decoder"], help="autoencoder: hold the encoder still?"
    )
    parser.add_argument("--batch", type=int, default=0, help="samples a step (0 = the step's own default)")
    parser.add_argument("--horizon", type=int, default=0, help="samples until the learning rate has fallen")
    parser.add_argument("--lr", type=float, default=0, help="peak learning rate")
    parser.add_argument("--stage", type=int, default=2, choices=[1, 2], help="DiSS: 1 both conditions, 2 with drops")
    parser.add_argument(
        "--shares",
        type=float,
        nargs=2,
        default=(0.4, 0.3),
        metavar=("QUARTER", "HALF"),
        help="unet, distil: shares of the steps at a quarter and at half of the size, without drawings",
    )
    parser.add_argument("--samples", type=int, default=1000, help="report: pictures drawn for KID and FID")
    parser.add_argument("--json", action="store_true", help="report: one JSON object on the last line")
    args = parser.parse_args()

    from training.loop import pick_device

    device = pick_device(args.device)
    if args.what == "autoencoder":
        from training.autoencoder import train

        train(args.minutes, device, args.part, args.batch or 16, args.horizon or 26_000, args.lr or 1e-3)
    elif args.what == "unet":
        from training.unet import train

        train(
            args.minutes,
            device,
            args.stage,
            tuple(args.shares),
            args.batch or 32,
            args.horizon or 110_000,
            args.lr or 5e-4,
        )
    elif args.what == "distil":
        from training.distil import train

        train(
            args.minutes, device, tuple(args.shares), args.batch or 32, args.horizon or 30_000, args.lr or 1e-3, rank=32
        )
    elif args.what == "clip":
        from training.clip import train

        train(args.minutes, device, args.batch or 128, args.horizon or 60_000, args.lr or 1e-3)
    elif args.what == "export":
        from training.export import export

        export()
    else:
        from training.report import report

        report(device, args.samples, args.json)


if __name__ == "__main__":
    main()
