_base_ = '../mixskd/plain_resnet20_1xb64-20e_digits-16px.py'
